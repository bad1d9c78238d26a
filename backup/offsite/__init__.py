"""Copies of sets at another place: a bucket, or a folder on another disk.

`layout` names the objects of a set, `model` is what is known of each copy, `books` keeps that in the backup volume,
`decide` says what is to be sent, read or retried, `told` what people are told; the last two are pure. The verbs are in
`operations/offsite`.
"""
