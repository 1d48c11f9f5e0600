"""Cameras of the package `mvdream`, which jsd-guidance does not use."""


def convert_opengl_to_blender(camera_matrix):
    raise NotImplementedError("This is a stand-in: install mvdream for its own guidance.")


def normalize_camera(camera_matrix):
    raise NotImplementedError("This is a stand-in: install mvdream for its own guidance.")
