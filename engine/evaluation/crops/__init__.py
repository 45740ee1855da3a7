"""Linear classifiers on a frozen backbone that sees new random crops in every epoch, as papers train them."""
