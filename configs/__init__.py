"""The YAML files that ship with autodraft: models by name and search jobs. No code lives here."""
