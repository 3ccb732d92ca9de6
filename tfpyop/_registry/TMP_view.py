class OpsView(Mapping[str, Any]):
    """A read-only view of the registered ops by name."""

    def __getitem__(self, name: str) -> Any:
        """The op of this name; KeyError as mappings do."""
        if name not in REGISTRY.names():
            raise KeyError(name)
        return REGISTRY.find(name).op

    def __iter__(self) -> Iterator[str]:
        """Names in the order of definition."""
        return iter(REGISTRY.names())

    def __len__(self) -> int:
        """How many ops are registered."""
        return len(REGISTRY.names())


