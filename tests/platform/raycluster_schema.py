"""The part of RayCluster (ray.io/v1) that our manifest uses, written by hand from the types of KubeRay's operator, 1.5 and 1.6.

No package carries the operator's own schema, and what others wrote is not kept here. A key that this one does not name is
refused. Pods are Kubernetes' own: their templates are checked by Kubernetes' schema of a pod.
"""

from typing import Any

_NUMBER = {"type": "integer", "minimum": 0}
_START = {"type": "object", "additionalProperties": {"type": "string"}}  # options of `ray start`, without their dashes
_TEMPLATE = {
    "type": "object",
    "properties": {"metadata": {"type": "object"}, "spec": {"type": "object", "required": ["containers"]}},
    "required": ["spec"],
    "additionalProperties": False,
}
_HEAD = {
    "type": "object",
    "properties": {
        "rayStartParams": _START,
        "template": _TEMPLATE,
        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        "enableIngress": {"type": "boolean"},
    },
    "required": ["template"],
    "additionalProperties": False,
}
_WORKERS = {
    "type": "object",
    "properties": {
        "groupName": {"type": "string", "minLength": 1},
        "replicas": _NUMBER,
        "minReplicas": _NUMBER,
        "maxReplicas": _NUMBER,
        "numOfHosts": {"type": "integer", "minimum": 1},
        "idleTimeoutSeconds": _NUMBER,
        "rayStartParams": _START,
        "template": _TEMPLATE,
    },
    "required": ["groupName", "minReplicas", "maxReplicas", "template"],
    "additionalProperties": False,
}
_SPEC = {
    "type": "object",
    "properties": {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": {
            "type": "object",
            "properties": {"mode": {"enum": ["disabled", "token"]}, "secretName": {"type": "string"}},
            "required": ["mode"],
            "additionalProperties": False,
        },
        "enableInTreeAutoscaling": {"type": "boolean"},
        "suspend": {"type": "boolean"},
        "headGroupSpec": _HEAD,
        "workerGroupSpecs": {"type": "array", "items": _WORKERS, "minItems": 1},
    },
    "required": ["headGroupSpec", "rayVersion"],
    "additionalProperties": False,
}
RAY_CLUSTER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 50}}, "required": ["name"]},
        "spec": _SPEC,
    },
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
}
