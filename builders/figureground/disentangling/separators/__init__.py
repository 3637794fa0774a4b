"""Methods that separate foreground features from background features, one module each."""
