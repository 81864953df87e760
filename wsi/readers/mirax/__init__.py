"""3DHISTECH MIRAX, its JPEG images read directly where they lie at whole pixels."""
