"""The commands of `flywheel`, by concern; every module is imported only when one of its commands is called."""
