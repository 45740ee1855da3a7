"""`viewmill bench NAME`: measures a part beside its peers, prints a table and stores the figures."""

from collections.abc import Callable

from viewmill.tools.bench_commands import losses, methods, passes, pipelines, results, shards, training
from viewmill.tools.bench_commands.figures import with_shared_options
from viewmill.tools.console import new_app

EXAMPLE = pipelines.LOADER_EXAMPLE

app = new_app("Measure a part beside its peers, in one run on the same inputs.", example=EXAMPLE)
# In the order of the help.
COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "loader": (pipelines.loader, pipelines.LOADER_EXAMPLE),
    "gpu": (pipelines.gpu, pipelines.GPU_EXAMPLE),
    "train": (training.train, training.TRAIN_EXAMPLE),
    "plan": (training.plan, training.PLAN_EXAMPLE),
    "doctor": (training.doctor, training.DOCTOR_EXAMPLE),
    "memory": (training.memory, training.MEMORY_EXAMPLE),
    "prior": (passes.prior, passes.PRIOR_EXAMPLE),
    "methods": (methods.methods, methods.EXAMPLE),
    "knn": (passes.knn, passes.KNN_EXAMPLE),
    "sentinels": (passes.sentinels, passes.SENTINELS_EXAMPLE),
    "manifest": (shards.manifest, shards.MANIFEST_EXAMPLE),
    "parity": (pipelines.parity, pipelines.PARITY_EXAMPLE),
    "order": (pipelines.order, pipelines.ORDER_EXAMPLE),
    "draws": (pipelines.draws, pipelines.DRAWS_EXAMPLE),
    "convert": (shards.convert, shards.CONVERT_EXAMPLE),
}
for name, (command, example) in COMMANDS.items():
    app.command(name, epilog=f"Example: {example}")(with_shared_options(command))
app.command("results", epilog=f"Example: {results.EXAMPLE}")(results.results)
app.add_typer(losses.app, name="loss")
