"""The part of Lightning that a sweep's launcher observes; quick to import, unlike the real one."""


class Callback:
    pass


class Trainer:
    def __init__(self):
        self.callbacks, self.global_step = [], 0

    def call(self, hook, *args):
        for callback in self.callbacks:
            getattr(callback, hook)(self, None, *args)

    def fit(self, train):
        self.call("on_train_start")
        train(self)
