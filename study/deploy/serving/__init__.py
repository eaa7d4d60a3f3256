"""``predictive-exit serve``: an exported model over HTTP. Needs the extra ``serve``."""
