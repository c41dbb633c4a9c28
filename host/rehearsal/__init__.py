"""The rehearsal: a stand-in for the model that says it is a script and not an AI.

`requests` understands plain words, `script` decides what to answer, `events` puts the answer into the Messages
API's words: none of them does I/O. `server` speaks HTTP in a child process, `child` starts and stops that child.
"""
