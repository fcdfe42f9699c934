"""Judges that ask a service over HTTP.

In: items, and where the service is. Out: scores as they arrive, each item asked until it has a score or a reason why
there is none; a key goes to https or to this machine only, and is cut out of all that comes back.

Read judge.py first (`RemoteJudge`, from which plugins derive), then client.py (many requests at once, retries, a stop),
replies.py (what each answer means) and keys.py (finding a key and cutting it out). Several addresses, their limits and
the requests themselves are in alignkit/services, which the samplers share.
"""
