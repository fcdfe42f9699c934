"""A plugin that claims a name alignkit-plugins already has."""

from alignkit.plugin import Chosen, Method, MethodConfig, hookimpl


class OtherSFT(Method):
    name, Config, trains_on = "sft", MethodConfig, Chosen()

    def loss(self, batch, config):
        return batch.mean(-batch.logprob_N, over="completions")


@hookimpl
def register_methods(register):
    register(OtherSFT)
