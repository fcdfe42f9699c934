"""Phrases by which an answer hedges, apologises or refuses, in the languages that preference sets are written in.

Compared word by word: capital letters, punctuation and the kind of apostrophe do not count, and each letter of a script
without spaces is a word. Written down by hand, and short on purpose: a phrase stands here if it seldom means anything
else. What a language without an entry says is not counted.
"""

from __future__ import annotations

HEDGES = (
    # English
    *("perhaps", "maybe", "possibly", "probably", "might be", "may be", "could be", "it seems", "it appears"),
    *("I think", "I believe", "I guess", "I'm not sure", "I am not sure", "as far as I know", "to my knowledge"),
    *("it depends", "generally speaking", "in some cases", "not necessarily", "it is possible", "it's possible"),
    *("it is important to note", "it's important to note", "keep in mind"),
    # German, French, Spanish, Portuguese, Italian
    *("vielleicht", "möglicherweise", "wahrscheinlich", "ich glaube", "es kommt darauf an"),
    *("peut-être", "probablement", "il semble", "je crois", "je pense", "cela dépend", "ça dépend"),
    *("quizás", "tal vez", "probablemente", "posiblemente", "creo que", "parece que", "depende de"),
    *("talvez", "provavelmente", "possivelmente", "acho que", "acredito que"),
    *("forse", "probabilmente", "credo che", "penso che", "dipende da"),
    # Russian, Chinese, Japanese, Korean
    *("возможно", "вероятно", "может быть", "наверное", "я думаю", "я считаю"),
    *("可能", "也许", "或许", "大概", "我认为", "我觉得", "似乎"),
    *("かもしれません", "おそらく", "たぶん", "と思います"),
    *("아마도", "아마", "것 같습니다", "생각합니다"),
)

APOLOGIES = (
    *("I'm sorry", "I am sorry", "we're sorry", "so sorry", "my apologies", "I apologize", "I apologise"),
    *("apologies for", "apologize for", "apologise for", "sorry for", "sorry about", "sorry but"),
    *("es tut mir leid", "tut mir leid", "entschuldigung", "ich entschuldige mich"),
    *("je suis désolé", "je suis désolée", "désolé", "désolée", "je m'excuse", "mes excuses", "toutes mes excuses"),
    *("lo siento", "disculpa", "disculpe", "mis disculpas", "me disculpo"),
    *("desculpe", "me desculpe", "peço desculpas", "sinto muito", "lamento"),
    *("mi dispiace", "mi scuso", "scusa", "le mie scuse"),
    *("извините", "простите", "прошу прощения", "приношу извинения", "мне жаль", "к сожалению"),
    *("抱歉", "对不起", "對不起", "不好意思"),
    *("申し訳ありません", "申し訳ございません", "すみません", "ごめんなさい"),
    *("죄송합니다", "죄송하지만", "미안합니다"),
    *("أعتذر", "آسف", "عذرا"),
)

REFUSALS = (
    # English
    *("I can't help", "I cannot help", "I can not help", "I'm not able to help", "I am not able to help"),
    *("I can't assist", "I cannot assist", "I'm not able to assist", "I am not able to assist", "unable to assist"),
    *("unable to help", "I can't provide", "I cannot provide", "I'm not able to provide", "I am not able to provide"),
    *("I am unable to", "I'm unable to", "I can't answer", "I cannot answer", "I can't do that", "I cannot do that"),
    *("I can't fulfill", "I cannot fulfill", "I can't comply", "I cannot comply", "I can't create", "I cannot create"),
    *("I can't generate", "I cannot generate", "I can't write", "I cannot write", "I can't give", "I cannot give"),
    *("I can't discuss", "I cannot discuss", "I can't support", "I cannot support", "I can't engage"),
    *("I cannot engage", "I can't share", "I cannot share", "I won't help", "I will not help", "I won't provide"),
    *("I will not provide", "I won't do that", "I must decline", "I have to decline", "I decline to"),
    *("I'm not comfortable", "I am not comfortable", "I don't feel comfortable", "I do not feel comfortable"),
    *("as an AI I can't", "as an AI I cannot", "as an AI language model I cannot", "as an AI language model I can't"),
    *("as an AI language model I do not have", "as an AI language model I don't have"),
    *("as an AI I do not have", "as an AI I don't have", "as an AI language model I am not able"),
    *("I don't have access to", "I do not have access to", "I don't have personal", "I do not have personal"),
    *("against my programming", "against my guidelines", "not something I can help"),
    # German, French, Spanish, Portuguese, Italian
    *("ich kann dir nicht helfen", "ich kann Ihnen nicht helfen", "kann ich nicht helfen", "dabei nicht helfen"),
    *("kann ich leider nicht", "ich kann leider nicht", "ich kann diese Anfrage nicht", "ich bin nicht in der Lage"),
    *("ich darf nicht", "ich werde nicht helfen"),
    *("je ne peux pas", "je ne suis pas en mesure", "je ne suis pas capable", "je ne pourrai pas", "je refuse de"),
    *("no puedo ayudar", "no puedo ayudarte", "no puedo ayudarle", "no puedo proporcionar", "no puedo responder"),
    *("no puedo cumplir", "no puedo hacer eso", "no soy capaz de", "no me es posible"),
    *("não posso ajudar", "não posso fornecer", "não posso responder", "não posso fazer isso", "não sou capaz de"),
    *("não consigo ajudar",),
    *("non posso aiutare", "non posso aiutarti", "non posso fornire", "non posso rispondere", "non sono in grado"),
    # Russian, Arabic
    *("я не могу помочь", "не могу помочь", "я не могу предоставить", "я не могу ответить", "я не могу выполнить"),
    *("не могу выполнить", "я не имею возможности"),
    *("لا أستطيع مساعدتك", "لا يمكنني مساعدتك", "لا أستطيع تقديم", "لا يمكنني تقديم", "لا يمكنني المساعدة"),
    # Chinese, Japanese, Korean
    *(
        "我不能帮",
        "我无法帮",
        "无法帮助您",
        "不能帮助您",
        "我不能提供",
        "我无法提供",
        "无法提供",
        "我无法回答",
        "我不能回答",
    ),
    *("我无法满足", "我不能满足", "无法满足您的", "我无法完成", "我没有能力", "我無法", "作为一个人工智能 我无法"),
    *("作为AI 我无法", "作为一个AI语言模型 我无法", "作为一个人工智能语言模型 我无法", "作为人工智能 我不能"),
    *("お手伝いできません", "お手伝いすることはできません", "お答えできません", "お答えすることはできません"),
    *("提供できません", "提供することはできません", "対応できません", "応じることはできません"),
    *(
        "도와드릴 수 없습니다",
        "도와 드릴 수 없습니다",
        "제공할 수 없습니다",
        "답변드릴 수 없습니다",
        "답변할 수 없습니다",
    ),
    *("도움을 드릴 수 없습니다",),
)
