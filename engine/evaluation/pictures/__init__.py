"""What the pictures of a backbone show, as numbers: maps, colours, neighbours, orders; `tools/pictures` draws them."""
