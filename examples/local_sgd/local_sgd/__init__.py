"""Local SGD as a system of the testbed: replicas that train alone, and now and then are averaged."""
