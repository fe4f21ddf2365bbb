# SPDX-License-Identifier: MIT
"""The pod that a build runs in, as Kubernetes' API knows it: its size now, another one, and the kubelet's answer.

May import nothing of the command but its errors. The client of Kubernetes is in account.py alone.
"""
