"""One file a module of the package: rules by table, steps on a temporary directory."""
