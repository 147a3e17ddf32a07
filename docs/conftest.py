"""Which pages have examples that run as tests."""

collect_ignore = ["conf.py"]
collect_ignore_glob = ["_build/*", "api/*", "gallery/*"]
