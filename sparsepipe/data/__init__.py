"""Point clouds: they are read from files or generated, and made ahead of training.

cloud      points of a surface or of a LiDAR scan, with features and one label
pose       how a cloud is turned, scaled, cut and made noisy before training sees it
mesh       a surface of triangles, from which clouds are sampled
surface    a generated surface, from which clouds are sampled
split      the clouds of a data set that serve for training, or those that serve for testing
class      what a cloud shows, such as a chair; a label is the number of a class
bad file   a file that cannot be read; it is reported once and the run goes on without it
epoch      one pass over the training clouds
"""
