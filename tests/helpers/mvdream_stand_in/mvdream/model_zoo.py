"""Models of the package `mvdream`, which jsd-guidance does not use."""


def build_model(model_name, ckpt_path=None, cache_dir=None):
    raise NotImplementedError("This is a stand-in: install mvdream for its own guidance.")
