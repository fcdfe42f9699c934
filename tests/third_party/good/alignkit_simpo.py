"""SimPO, preference optimization without a reference model, a judge of length, and a metric of sentences.

    L = - E[ log sigma( beta (log pi(y_w|x) / |y_w| - log pi(y_l|x) / |y_l|) - gamma ) ]

Source: Meng, Xia, Chen 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", Eq. 6.
"""

import re

from pydantic import Field

from alignkit.plugin import Judge, JudgeConfig, Method, MethodConfig, Metric, Missing, Pairs, Scored, hookimpl


class SimPOConfig(MethodConfig):
    learning_rate: float = Field(1e-6, gt=0, description="peak learning rate")
    beta: float = Field(2.0, gt=0, description="scale of the log-prob a token")
    gamma: float = Field(1.0, ge=0, description="margin that a chosen completion must win by")


class SimPO(Method):
    name, Config, trains_on = "simpo", SimPOConfig, Pairs()

    def loss(self, batch, config):
        from torch.nn.functional import logsigmoid

        chosen, rejected = batch.pairs()
        margin_P = config.beta * (chosen.logprob_N / chosen.num_tokens_N - rejected.logprob_N / rejected.num_tokens_N)
        batch.log(margin=margin_P, accuracy=(margin_P.sign() + 1) / 2)
        return batch.mean(-logsigmoid(margin_P - config.gamma), over="pairs")


class BrevityConfig(JudgeConfig):
    max_words: int = Field(50, ge=1, description="words that a completion may have")


class Brevity(Judge):
    name, version, Config, verifiable = "brevity", "1", BrevityConfig, True

    def score(self, items):
        return [self._score_one(item.completion) for item in items]

    def _score_one(self, completion):
        num_words = len(completion.split())
        return Scored(float(num_words <= self.config.max_words)) if num_words else Missing("the completion is empty")


class Sentences(Metric):
    name, label, more_is_better = "sentences", "sentences per answer", None

    def values(self, answers):
        return [len(re.findall(r"[.!?](?:\s|$)", text)) for text in answers.texts]


@hookimpl
def register_methods(register):
    register(SimPO)


@hookimpl
def register_judges(register):
    register(Brevity)


@hookimpl
def register_metrics(register):
    register(Sentences)
