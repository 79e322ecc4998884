"""The networks and backends that options name. What is behind a name needs torch; this does not."""

NETWORKS = ("minkvgg16-bn", "minkunet14", "minkunet18", "minkunet34")
"""The networks, in the order of `sparsepipe.models.NETWORKS`, which builds them."""
CLASSIFIERS = ("minkvgg16-bn",)
"""Those that give a row for every cloud; the others give one for every voxel."""
BACKEND_MODULES = {
    "compiled": "sparsepipe.engine.backends.compiled",
    "triton": "sparsepipe.engine.backends.triton_kernels",
    "pytorch": "sparsepipe.engine.backends.pytorch",
    "minkowski": "sparsepipe.engine.backends.minkowski",
}
"""The module of every backend."""
BACKENDS = ("native", *BACKEND_MODULES)
"""All names of backends; `native` is one of the next three."""
