"""Local SGD: replicas train alone, and now and then their parameters are averaged."""
