"""The few calls of etcd's API that are made without a load tool."""

from lib import wire

KEY, RANGE_END = 1, 2
HEADER, MEMBER_ID, REVISION = 1, 2, 3
STATUS_LEADER = 4
COMPACT_REVISION, COMPACT_PHYSICAL = 1, 2
WATCH_CREATE = 1
ADD_PEER_URLS, ADD_IS_LEARNER = 1, 2
ADDED_MEMBER = 2
PROMOTE_ID = 1


def revision(port, timeout):
    """The store's revision, by a linearizable read of one key."""
    answer = wire.ask(port, "KV/Range", text(KEY, b"nothing"), timeout)
    return field(field(answer, HEADER), REVISION)


def own_and_leader(port, timeout):
    """A member's id, and the id of the member that leads."""
    answer = wire.ask(port, "Maintenance/Status", b"", timeout)
    return field(field(answer, HEADER), MEMBER_ID), field(answer, STATUS_LEADER)


def add_learner(port, peer, timeout):
    """Adds a member that does not vote; returns its id."""
    answer = wire.ask(port, "Cluster/MemberAdd", text(ADD_PEER_URLS, peer.encode()) + number(ADD_IS_LEARNER, 1), timeout)
    return field(field(answer, ADDED_MEMBER), 1)


def promote(port, member, timeout):
    """Lets a member vote that does not yet; refused until it has caught up."""
    wire.ask(port, "Cluster/MemberPromote", number(PROMOTE_ID, member), timeout)


def compact(port, at, timeout):
    """Compacts to a revision; returns when the garbage is gone."""
    wire.ask(port, "KV/Compact", number(COMPACT_REVISION, at) + number(COMPACT_PHYSICAL, 1), timeout)


def watch_and_stall(port, prefix, timeout):
    """A watch on everything with a prefix that is never read once it stands; ends when it is closed."""
    request = text(KEY, prefix) + text(RANGE_END, prefix[:-1] + bytes([prefix[-1] + 1]))
    call = wire.Call(port, "Watch/Watch", text(WATCH_CREATE, request), timeout)
    try:
        call.answer()
    except (wire.Refused, OSError):
        call.close()
        raise
    return call


def varint(value):
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes(data + bytes([value]))


def number(name, value):
    return varint(name << 3) + varint(value)


def text(name, value):
    return varint(name << 3 | 2) + varint(len(value)) + value


def field(message, name):
    """A field of an encoded message: a number, or bytes; zero when it is not there."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        value, at = read_varint(message, at)
        if tag & 7 == 2:
            value, at = message[at:at + value], at + value
        if tag >> 3 == name:
            return value
    return 0


def read_varint(message, at):
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
