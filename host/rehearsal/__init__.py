"""The rehearsal: a stand-in for the model that says it is a script and not an AI.

`script` decides what to answer (no I/O), `events` puts an answer into the Messages API's words (no I/O),
`server` speaks HTTP in a child process, `child` starts and stops that child.
"""
