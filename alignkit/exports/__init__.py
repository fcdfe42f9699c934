"""A trained model taken home: a folder for transformers and vLLM, an adapter for PEFT, GGUF for llama.cpp and Ollama.

What enters is a finished run or a model's folder; what leaves is a folder of files, each loaded again by its format's
own reader and compared with the trained policy, its adapter on.

Read export.py (the steps in order), trained.py (the policy as it was trained), proof.py (what is compared),
gguf_file.py (the weights of llama.cpp), llama_cpp.py (its reader), modelfile.py (Ollama's template), card.py (the model
card) and push.py (the hub).
"""
