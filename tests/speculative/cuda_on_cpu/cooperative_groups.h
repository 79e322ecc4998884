// Clusters need a GPU: the kernels use none where __CUDA_ARCH__ is not defined.
