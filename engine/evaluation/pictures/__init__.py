"""What the pictures of a backbone show, as numbers; tools/pictures draws them."""
