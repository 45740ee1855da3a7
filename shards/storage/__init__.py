"""Where bytes lie: a local folder or a URL, behind one face; and the local cache of what came from a URL."""
