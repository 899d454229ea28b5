"""What stands between the network and the page in the browser: which files, and how much of everything."""
