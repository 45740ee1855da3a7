"""What the `viewmill` script begins with: every worker process imports the script again, so this is light."""


def main() -> None:
    """The command line."""
    from viewmill.tools.cli import main as command_line

    command_line()
