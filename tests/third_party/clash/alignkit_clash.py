"""A plugin that claims a name alignkit-plugins already has."""

from alignkit import Method, MethodConfig, hookimpl


class OtherSFT(Method):
    name, Config, trains_on = "sft", MethodConfig, "chosen"

    def loss(self, batch, config):
        return batch.mean(-batch.logprob_N, over="completions")


@hookimpl
def register_methods(register):
    register(OtherSFT)
