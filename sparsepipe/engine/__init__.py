"""Sparse tensors and the layers on them: convolutions, poolings, normalisations.

A sparse network computes only where there is something. The words that its files use:

    cloud            the points of one object or scan
    sample           one cloud of a batch; samples are numbered from 0
    voxel            a small cube of space, named by whole numbers (x, y, z); it exists if at least
                     one point lies in it
    coordinates      int32 [N, 4] = (batch, x, y, z): N voxels; batch is the number of the sample
    axes             x, y and z; grids of one, two or four axes are the same with other columns
    key              the four coordinates of a voxel packed into one int64, so that sorting keys
                     sorts voxels (`coordinates.py`)
    features         floating point [N, C]: C numbers, the channels, for each of N voxels
    sparse tensor    features with the voxels that they belong to (`tensor.py`)
    row              the features of one voxel; also the number of that row in [0, N)
    order of rows    a user's rows stay in the order in which they were given; layers sort them by
                     key for as long as they compute (`row_order.py`)
    tensor stride    the distance between neighbouring voxels of a tensor, in voxels of the finest
                     grid: 1 for clouds, doubled by every layer of stride 2, 0 after global pooling
    coordinate map   the keys of all voxels at one tensor stride, which number the rows there; all
                     tensors of one forward pass share theirs (`coordinate_maps.py`)
    kernel           size, shape, dilation and the two strides of a convolution or pooling
                     (`kernel.py`)
    offset           one place of a kernel, (dx, dy, dz); it has one weight matrix [Cin, Cout]
    kernel map       all pairs (input row, output row) that meet under an offset (`kernel_map.py`)
    pair             one of these: the input voxel lies at the output voxel + the offset
    transposed       with inputs and outputs swapped: from coarse voxels back to finer ones
    generative       transposed, and making all voxels that the kernel reaches
    pruning          dropping the voxels that a mask does not keep
    field            features of points that lie anywhere, with their places (`field.py`)
    backend          whoever computes the products of a convolution (`backends/`)

The way of one convolution:

    tensor.rows          features in the order of the keys
      -> coordinate_maps   the voxels of the output: the same, or those of a larger stride
      -> kernel_map        which rows meet under which offset; kept for later layers
      -> backends          gather the input rows of a pair, multiply by the offset's weight, add to
                           the output row
      -> SparseTensor.on   the result, on the output's voxels
"""
