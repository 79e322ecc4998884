"""Data sets of images with labels, and the order in which the ranks of a run go through them.

data = open_digits()
mine = global_batch(96, len(data.train), seed=0, step=7)[share(96, world_size, rank)]
images, labels = data.train.batch(mine)
"""
