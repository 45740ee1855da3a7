"""What a backbone tells of every pixel: its stages as maps, and a linear probe of them."""
