"""Services on other machines: which address may be asked now, and requests that end.

In: addresses. Out: answers, or one line that says why there is none.

Read addresses.py first (several addresses of one service: which is asked, which is down), then http.py (a request with
one deadline, and a stop that works at once). spreading.py gives a list of pieces to several servers. Judges that ask a
service (alignkit/scoring/remote) and samplers that draw from servers use all three. pages.py is the other way round: a
page that this machine serves to its user.
"""
