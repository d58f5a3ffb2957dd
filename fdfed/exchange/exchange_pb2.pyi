from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ElementType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ELEMENT_TYPE_UNSPECIFIED: _ClassVar[ElementType]
    ELEMENT_TYPE_FLOAT32: _ClassVar[ElementType]
    ELEMENT_TYPE_FLOAT64: _ClassVar[ElementType]

class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODE_UNSPECIFIED: _ClassVar[Code]
    CODE_MALFORMED: _ClassVar[Code]
    CODE_WRONG_PROTOCOL: _ClassVar[Code]
    CODE_UNKNOWN_SITE: _ClassVar[Code]
    CODE_DUPLICATE_STREAM: _ClassVar[Code]
    CODE_WRONG_SHAPE: _ClassVar[Code]
    CODE_WRONG_TYPE: _ClassVar[Code]
    CODE_NOT_FINITE: _ClassVar[Code]
    CODE_TOO_LARGE: _ClassVar[Code]
    CODE_WRONG_ROUND: _ClassVar[Code]
    CODE_WRONG_STEP: _ClassVar[Code]
    CODE_DUPLICATE_FRAME: _ClassVar[Code]
    CODE_TOO_LATE: _ClassVar[Code]
    CODE_ABSENT: _ClassVar[Code]
    CODE_ROUND_CLOSED: _ClassVar[Code]
    CODE_INTERNAL: _ClassVar[Code]
    CODE_WRONG_SUITE: _ClassVar[Code]
    CODE_BAD_OPENING: _ClassVar[Code]
    CODE_REPLAYED: _ClassVar[Code]
    CODE_OUT_OF_ORDER: _ClassVar[Code]
    CODE_TRUNCATED: _ClassVar[Code]
    CODE_ALTERED: _ClassVar[Code]
    CODE_REVOKED: _ClassVar[Code]
ELEMENT_TYPE_UNSPECIFIED: ElementType
ELEMENT_TYPE_FLOAT32: ElementType
ELEMENT_TYPE_FLOAT64: ElementType
CODE_UNSPECIFIED: Code
CODE_MALFORMED: Code
CODE_WRONG_PROTOCOL: Code
CODE_UNKNOWN_SITE: Code
CODE_DUPLICATE_STREAM: Code
CODE_WRONG_SHAPE: Code
CODE_WRONG_TYPE: Code
CODE_NOT_FINITE: Code
CODE_TOO_LARGE: Code
CODE_WRONG_ROUND: Code
CODE_WRONG_STEP: Code
CODE_DUPLICATE_FRAME: Code
CODE_TOO_LATE: Code
CODE_ABSENT: Code
CODE_ROUND_CLOSED: Code
CODE_INTERNAL: Code
CODE_WRONG_SUITE: Code
CODE_BAD_OPENING: Code
CODE_REPLAYED: Code
CODE_OUT_OF_ORDER: Code
CODE_TRUNCATED: Code
CODE_ALTERED: Code
CODE_REVOKED: Code

class SiteFrame(_message.Message):
    __slots__ = ("hello", "sealed")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    sealed: Sealed
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., sealed: _Optional[_Union[Sealed, _Mapping]] = ...) -> None: ...

class HubFrame(_message.Message):
    __slots__ = ("refusal", "challenge", "sealed")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    refusal: Refusal
    challenge: Challenge
    sealed: Sealed
    def __init__(self, refusal: _Optional[_Union[Refusal, _Mapping]] = ..., challenge: _Optional[_Union[Challenge, _Mapping]] = ..., sealed: _Optional[_Union[Sealed, _Mapping]] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("protocol_version", "nonce")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    nonce: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "suite", "opening")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    suite: str
    opening: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., suite: _Optional[str] = ..., opening: _Optional[bytes] = ...) -> None: ...

class Sealed(_message.Message):
    __slots__ = ("counter", "length", "body")
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    counter: int
    length: int
    body: bytes
    def __init__(self, counter: _Optional[int] = ..., length: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class SiteContent(_message.Message):
    __slots__ = ("prototypes",)
    PROTOTYPES_FIELD_NUMBER: _ClassVar[int]
    prototypes: Prototypes
    def __init__(self, prototypes: _Optional[_Union[Prototypes, _Mapping]] = ...) -> None: ...

class HubContent(_message.Message):
    __slots__ = ("welcome", "cotangents", "refusal")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    COTANGENTS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    cotangents: Cotangents
    refusal: Refusal
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., cotangents: _Optional[_Union[Cotangents, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol_version", "site")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    site: str
    def __init__(self, protocol_version: _Optional[int] = ..., site: _Optional[str] = ...) -> None: ...

class StepKey(_message.Message):
    __slots__ = ("run_id", "server_round", "attempt", "step")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SERVER_ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    server_round: int
    attempt: int
    step: int
    def __init__(self, run_id: _Optional[str] = ..., server_round: _Optional[int] = ..., attempt: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class Prototypes(_message.Message):
    __slots__ = ("key", "element_type", "payload")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    key: StepKey
    element_type: ElementType
    payload: bytes
    def __init__(self, key: _Optional[_Union[StepKey, _Mapping]] = ..., element_type: _Optional[_Union[ElementType, str]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class PrototypePayload(_message.Message):
    __slots__ = ("vector", "valid")
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    vector: bytes
    valid: bytes
    def __init__(self, vector: _Optional[bytes] = ..., valid: _Optional[bytes] = ...) -> None: ...

class Cotangents(_message.Message):
    __slots__ = ("key", "element_type", "payload")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    key: StepKey
    element_type: ElementType
    payload: bytes
    def __init__(self, key: _Optional[_Union[StepKey, _Mapping]] = ..., element_type: _Optional[_Union[ElementType, str]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class CotangentPayload(_message.Message):
    __slots__ = ("vector", "pair_terms", "site_terms", "peers")
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    PAIR_TERMS_FIELD_NUMBER: _ClassVar[int]
    SITE_TERMS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    vector: bytes
    pair_terms: _containers.RepeatedScalarFieldContainer[float]
    site_terms: _containers.RepeatedScalarFieldContainer[float]
    peers: int
    def __init__(self, vector: _Optional[bytes] = ..., pair_terms: _Optional[_Iterable[float]] = ..., site_terms: _Optional[_Iterable[float]] = ..., peers: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "message", "key")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    code: Code
    message: str
    key: StepKey
    def __init__(self, code: _Optional[_Union[Code, str]] = ..., message: _Optional[str] = ..., key: _Optional[_Union[StepKey, _Mapping]] = ...) -> None: ...
