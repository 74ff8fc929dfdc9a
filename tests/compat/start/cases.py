"""What is given to both servers. See judge.py."""
import dataclasses
import os
import resource
import signal
import socket
import typing


@dataclasses.dataclass
class Case:
    name: str
    args: list = dataclasses.field(default_factory=list)
    env: dict = dataclasses.field(default_factory=dict)
    file: typing.Any = None
    signal: typing.Any = None
    look: typing.Any = None
    before: typing.Any = None
    # Makes what lies in the data directory.
    folder: typing.Any = None
    # Which of the two is started on the server's directory before the case, after the server has lived there.
    between: typing.Any = None
    # Keys whose values are compared: "first" was put by the server itself, "between" by the other one.
    keys: tuple = ()
    # How the file's text becomes bytes.
    encode: typing.Any = str.encode
    quick: bool = False


# Signals that etcd does not end by.
IGNORED = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGWINCH, signal.SIGURG, signal.SIGIO,
           signal.SIGPWR, signal.SIGVTALRM, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGCONT, signal.SIGPROF}

MEMBER = {
    "name": "m1", "data-dir": "{D}/data", "listen-client-urls": "http://127.0.0.1:{C}",
    "advertise-client-urls": "http://127.0.0.1:{C}", "listen-peer-urls": "http://127.0.0.1:{P}",
    "initial-advertise-peer-urls": "http://127.0.0.1:{P}", "initial-cluster": "m1=http://127.0.0.1:{P}",
}


def flags(**other):
    """The flags of a plain member, some replaced, or left out by None."""
    chosen = dict(MEMBER)
    chosen.update({key.replace("_", "-"): value for key, value in other.items()})
    return [f"--{key}={value}" for key, value in chosen.items() if value is not None]


def yaml(more="", **other):
    """A file of a plain member."""
    chosen = dict(MEMBER)
    chosen.update({key.replace("_", "-"): value for key, value in other.items()})
    return "".join(f"{key}: {value}\n" for key, value in chosen.items() if value is not None) + more + "\n"


def connects(*addresses):
    """Which of these addresses accept a connection to the client port."""
    def look(ports):
        seen = {}
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as client:
                client.settimeout(2)
                seen[address] = client.connect_ex((address, ports[0])) == 0
        return seen
    return look


def second_process(ports):
    """Whether another process of the same user can listen on the client port beside the server."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            other.bind(("127.0.0.1", ports[0]))
            other.listen()
            return "shares the port"
        except OSError:
            return "address in use"


def descriptors(count):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def file_cases():
    """What stands in a configuration file."""
    for name, text in [
        ("plain", ""), ("float for an integer", "quota-backend-bytes: 8.589934592e+09"), ("fraction", "snapshot-count: 1.5"),
        ("exponent", "snapshot-count: 1e3"), ("negative zero", "snapshot-count: -0.0"), ("huge float", "snapshot-count: 1e30"),
        ("infinite", "snapshot-count: .inf"), ("not a number", "quota-backend-bytes: .nan"),
        ("hexadecimal", "snapshot-count: 0x10"), ("octal", "snapshot-count: 010"), ("octal of YAML 1.2", "snapshot-count: 0o10"),
        ("binary", "snapshot-count: 0b11"), ("underscores", "snapshot-count: 10_000"), ("plus", "snapshot-count: +5"),
        ("negative where unsigned", "snapshot-count: -5"), ("quoted number", "snapshot-count: '5'"),
        ("empty text for a number", "snapshot-count: ''"), ("null number", "snapshot-count: null"), ("tilde", "snapshot-count: ~"),
        ("no value", "snapshot-count:"), ("boolean for a number", "snapshot-count: true"), ("base 60", "snapshot-count: 1:30"),
        ("too large for 32 bits", "max-concurrent-streams: 4294967296"), ("too large for 64 bits", "snapshot-count: 18446744073709551616"),
        ("largest", "snapshot-count: 18446744073709551615"), ("least quota", "quota-backend-bytes: -9223372036854775808"),
        ("quota out of range", "quota-backend-bytes: 9223372036854775808"),
        ("no limit of streams", "max-concurrent-streams: 0"), ("zero snapshot-count", "snapshot-count: 0"),
        ("yes", "pre-vote: yes"), ("no", "pre-vote: no"), ("on", "pre-vote: on"), ("OFF", "pre-vote: OFF"), ("y", "pre-vote: y"),
        ("n", "pre-vote: n"), ("True", "pre-vote: True"), ("tRUE", "pre-vote: tRUE"), ("quoted yes", "pre-vote: 'yes'"),
        ("quoted true", "pre-vote: \"true\""), ("1 for true", "pre-vote: 1"), ("t for true", "pre-vote: t"), ("null boolean", "pre-vote: null"),
        ("tagged text", "initial-cluster-token: !!str 123"), ("tagged number", "snapshot-count: !!int \"5\""),
        ("tagged float", "snapshot-count: !!float 5"), ("tagged boolean", "pre-vote: !!bool \"no\""), ("own tag", "snapshot-count: !mine 5"),
        ("tagged binary", "initial-cluster-token: !!binary aGVsbG8="),
        ("number for a text", "initial-cluster-token: 123"), ("boolean for a text", "initial-cluster-token: yes"),
        ("date for a text", "initial-cluster-token: 2001-01-01"), ("quoted number for a text", "initial-cluster-token: '123'"),
        ("null text", "initial-cluster-token: null"), ("empty text", "initial-cluster-token: ''"), ("list for a text", "initial-cluster-token: [a]"),
        ("block for a text", "initial-cluster-token: {a: b}"), ("folded text", "initial-cluster-token: >-\n  a\n  b"),
        ("duration as text", "grpc-keepalive-timeout: 5s"), ("duration in nanoseconds", "grpc-keepalive-timeout: 5000000000"),
        ("duration as float", "grpc-keepalive-timeout: 5e9"), ("negative duration", "watch-progress-notify-interval: -5"),
        ("twice", "snapshot-count: 5\nsnapshot-count: 6"), ("upper case", "SNAPSHOT-COUNT: 7"), ("mixed case", "Snapshot-Count: 7"),
        ("two cases", "snapshot-count: 5\nSnapshot-Count: 6"), ("two cases the other way", "Snapshot-Count: 6\nsnapshot-count: 5"),
        ("unknown key", "no-such-flag: 1"), ("unknown block", "no-such: {a: [1, 2]}"), ("key of a number", "1: 2"), ("key of a boolean", "yes: 2"),
        ("key of nothing", "~: 2"), ("key of a list", "? [a]\n: 2"), ("key of a float", "1.5: 2"),
        ("second document", "---\nsnapshot-count: wrong"), ("second document that is broken", "---\nname: ["), ("end of document", "...\n"),
        ("merge", "base: &b {snapshot-count: 8}\n<<: *b"), ("merge of a list", "a: &a {snapshot-count: 8}\nb: &b {snapshot-count: 9}\n<<: [*a, *b]"),
        ("merge of no map", "<<: 5"), ("alias", "no-such: &x 9\nsnapshot-count: *x"), ("unknown alias", "snapshot-count: *x"),
        ("a tab", "no-such:\n\t- a"), ("broken", "name: ["), ("broken quote", "initial-cluster-token: 'a"), ("anchor of itself", "a: &a [*a]"),
        ("outputs", "log-outputs: [stderr]"), ("one output as text", "log-outputs: stderr"), ("no outputs", "log-outputs: []"),
        ("null outputs", "log-outputs: null"), ("null output", "log-outputs: [null]"), ("number as an output", "log-outputs: [1]"),
        ("default and another output", "log-outputs: [default, stdout]"), ("every output is dropped", "log-outputs: [/dev/null, stdout]"),
        ("output by URL", "log-outputs: ['file://{D}/log.txt', stderr]"), ("output of another scheme", "log-outputs: ['http://a/b']"),
        ("retention of nothing", "auto-compaction-retention: '0'"), ("retention 0h", "auto-compaction-retention: '0h'"),
        ("empty retention", "auto-compaction-retention: ''"), ("retention as a number", "auto-compaction-retention: 0"),
        ("revision mode", "auto-compaction-mode: revision\nauto-compaction-retention: '0'"), ("empty mode", "auto-compaction-mode: ''"),
        ("other mode", "auto-compaction-mode: sometimes"), ("bad retention", "auto-compaction-retention: abc"),
        ("profiles", "enable-pprof: true"), ("all metrics", "metrics: extensive"), ("other metrics", "metrics: all"), ("empty metrics", "metrics: ''"),
        ("level", "log-level: warn"), ("level of nothing", "log-level: ''"), ("other format", "log-format: xml"), ("empty format", "log-format: ''"),
        ("console", "log-format: console"), ("logger", "logger: capnslog"), ("empty logger", "logger: ''"),
        ("block", "socket-options: {reuse-port: true}"), ("block in other case", "Socket-Options: {Reuse-Address: true}"),
        ("null block", "socket-options: null"), ("text for a block", "socket-options: a"), ("list for a block", "socket-options: []"),
        ("null TLS block of clients", "client-transport-security: null"), ("null TLS block of peers", "peer-transport-security: null"),
        ("text for the TLS block of peers", "peer-transport-security: a"), ("empty TLS block", "peer-transport-security: {}"),
        ("empty TLS values", "client-transport-security:\n  cert-file:\n  key-file: ''\n  client-cert-auth: false\n  allowed-cn: []"),
        ("null discovery", "discovery-config: null"), ("empty discovery", "discovery-config: {}"),
        ("origins", "cors: 'http://a.example:80'"), ("empty origins", "cors: ''"), ("hosts", "host-whitelist: a,b"), ("empty hosts", "host-whitelist: ''"),
        ("gates", "feature-gates: 'AllBeta=true'"), ("empty gates", "feature-gates: ''"), ("unknown gate", "feature-gates: Foo=true"),
        ("state", "initial-cluster-state: existing-ish"), ("empty state", "initial-cluster-state: ''"),
        ("old experimental key", "experimental-compaction-batch-limit: abc"), ("old proxy key", "proxy: readonly"), ("old discovery key", "discovery: https://x"),
        ("max-snapshots", "max-snapshots: 3"), ("v2-deprecation", "v2-deprecation: anything"), ("zero heartbeat", "heartbeat-interval: 0"),
        ("null heartbeat", "heartbeat-interval: null"), ("ticks", "heartbeat-interval: 300\nelection-timeout: 2000"),
        ("key of a command line", "raft-read-timeout: abc"), ("key of the file itself", "config-file: abc"), ("version", "version: true"),
        ("null key list", "cipher-suites: null"), ("compact hash time of zero", "compact-hash-check-time: 0"), ("data-dir of nothing", "data-dir: ''"),
        ("negative batch limit", "backend-batch-limit: -1"), ("negative learners", "max-learners: -1"), ("peer by URL with path", "listen-peer-urls: 'http://127.0.0.1:{P}/a'"),
        ("client URL of a name", "listen-client-urls: 'http://a.example:{C}'"), ("empty client URLs", "listen-client-http-urls: ''"),
    ]:
        yield Case(f"file {name}", file=yaml(text))
    yield Case("file byte order mark", file=yaml(), encode=lambda text: text.encode("utf-8-sig"), quick=True)
    yield Case("file of UTF-16", file=yaml(), encode=lambda text: text.encode("utf-16"))
    yield Case("file of another encoding", file=yaml("no-such: \u00ff"), encode=lambda text: text.encode("latin-1"))
    yield Case("file as JSON", file='{"name": "m1", "data-dir": "{D}/data", "listen-client-urls": "http://127.0.0.1:{C}", '
               '"listen-peer-urls": "http://127.0.0.1:{P}", "max-wals": 2}')
    yield Case("file of a list", file="[]")
    yield Case("file of a text", file="hello")
    yield Case("file that is absent", args=["--config-file={D}/none"])
    yield Case("file beside flags", file=yaml(), args=["--name=other", "--snapshot-count=5"], env={"ETCD_NAME": "third"})
    yield Case("file by variable", args=[], env={"ETCD_CONFIG_FILE": "{D}/none"})
    yield Case("file in Windows lines", file=yaml("snapshot-count: 5").replace("\n", "\r\n"))
    yield Case("file with document start", file="%YAML 1.1\n---\n" + yaml("snapshot-count: 5"))
    yield Case("file with comments", file="# a\n" + yaml("snapshot-count: 5 # b"))
    for name, change in [
        ("any host without advertising", dict(listen_client_urls="http://0.0.0.0:{C}", advertise_client_urls=None, listen_peer_urls="http://0.0.0.0:{P}",
                                              initial_advertise_peer_urls=None, initial_cluster=None)),
        ("own host without advertising", dict(advertise_client_urls=None)),
        ("no cluster", dict(initial_cluster=None)), ("empty cluster", dict(initial_cluster="''")), ("empty name", dict(name="''", initial_cluster=None)),
        ("no name", dict(name=None, initial_cluster=None)), ("default name, own peer URL, no cluster", dict(name="default", initial_cluster=None)),
        ("cluster with a comma behind", dict(initial_cluster="'m1=http://127.0.0.1:{P},'")),
    ]:
        yield Case(f"file derived: {name}", file=yaml(**change), quick=True)


def flag_cases():
    """What stands on a command line."""
    for name, more in [
        ("plain", []), ("one dash", ["-snapshot-count=5"]), ("two words", ["--snapshot-count", "5"]), ("hexadecimal", ["--snapshot-count=0x10"]),
        ("octal", ["--snapshot-count=010"]), ("underscores", ["--snapshot-count=10_000"]), ("underscores of a prefix", ["--snapshot-count=0x1_0"]),
        ("plus", ["--snapshot-count=+5"]), ("plus where signed", ["--quota-backend-bytes=+5000000"]), ("float", ["--snapshot-count=1e3"]),
        ("space", ["--snapshot-count= 5"]), ("empty number", ["--snapshot-count="]), ("too large", ["--snapshot-count=18446744073709551616"]),
        ("twice", ["--snapshot-count=5", "--snapshot-count=6"]), ("twice, first wrong", ["--snapshot-count=x", "--snapshot-count=6"]),
        ("streams of zero", ["--max-concurrent-streams=0"]), ("streams", ["--max-concurrent-streams=100000"]), ("streams too large", ["--max-concurrent-streams=4294967296"]),
        ("boolean alone", ["--pre-vote"]), ("boolean T", ["--pre-vote=T"]), ("boolean yes", ["--pre-vote=yes"]), ("empty boolean", ["--pre-vote="]),
        ("boolean in two words", ["--pre-vote", "false"]), ("duration", ["--grpc-keepalive-timeout=1m30.5s"]), ("bare duration", ["--grpc-keepalive-timeout=5"]),
        ("duration of zero", ["--grpc-keepalive-timeout=0"]), ("negative duration", ["--grpc-keepalive-timeout=-5s"]), ("micro sign", ["--grpc-keepalive-timeout=5000000\u00b5s"]),
        ("empty duration", ["--grpc-keepalive-timeout="]), ("positional", ["word"]), ("dash", ["-"]), ("terminator", ["--", "word"]), ("terminator alone", ["--"]),
        ("three dashes", ["---name=x"]), ("no name", ["--=x"]), ("unknown", ["--no-such-flag"]), ("no value", ["--name"]), ("help", ["--help"]),
        ("h", ["-h"]), ("help with value", ["--help=false"]), ("help behind a mistake", ["--no-such-flag", "--help"]), ("version", ["--version"]),
        ("version false", ["--version=false"]), ("version and a word", ["--version", "word"]), ("version and a mistake", ["--version", "--no-such-flag"]),
        ("level INFO", ["--log-level=INFO"]), ("level Warning", ["--log-level=Warning"]), ("level warning", ["--log-level=warning"]), ("level dpanic", ["--log-level=dpanic"]),
        ("level of nothing", ["--log-level="]), ("level trace", ["--log-level=trace"]), ("level Debug", ["--log-level=Debug"]),
        ("format of nothing", ["--log-format="]), ("format xml", ["--log-format=xml"]), ("logger", ["--logger=capnslog"]), ("outputs of nothing", ["--log-outputs="]),
        ("outputs twice", ["--log-outputs=stderr,stderr"]), ("default and another output", ["--log-outputs=default,stdout"]), ("output file", ["--log-outputs={D}/out"]),
        ("output by URL", ["--log-outputs=file://{D}/out"]), ("output by URL of localhost", ["--log-outputs=file://localhost{D}/out"]), ("output by URL of a host", ["--log-outputs=file://a{D}/out"]),
        ("output of a scheme", ["--log-outputs=x:y"]), ("output nowhere", ["--log-outputs={D}/none/out"]), ("null output", ["--log-outputs=/dev/null"]),
        ("output by URL with a query", ["--log-outputs=file://{D}/out?x"]), ("relative output", ["--log-outputs=out"]),
        ("retention 0s", ["--auto-compaction-retention=0s"]), ("empty retention", ["--auto-compaction-retention="]), ("retention 0", ["--auto-compaction-retention=0"]),
        ("retention 00", ["--auto-compaction-retention=00"]), ("retention +0", ["--auto-compaction-retention=+0"]), ("retention -0", ["--auto-compaction-retention=-0"]),
        ("retention x", ["--auto-compaction-retention=x"]), ("revision 0s", ["--auto-compaction-mode=revision", "--auto-compaction-retention=0s"]),
        ("retention 0x0", ["--auto-compaction-retention=0x0"]), ("retention 0.0h", ["--auto-compaction-retention=0.0h"]),
        ("mode of nothing", ["--auto-compaction-mode="]), ("mode PERIODIC", ["--auto-compaction-mode=PERIODIC"]), ("metrics all", ["--metrics=all"]),
        ("metrics of nothing", ["--metrics="]), ("metrics extensive", ["--metrics=extensive"]), ("profiles", ["--enable-pprof"]),
        ("origins *", ["--cors=*"]), ("origins of nothing", ["--cors="]), ("origins", ["--cors=http://a.example:80,http://b.example:81"]), ("origin without port", ["--cors=http://a.example"]),
        ("word for an origin", ["--cors=a"]), ("hosts of nothing", ["--host-whitelist="]), ("hosts", ["--host-whitelist=a,127.0.0.1"]), ("hosts twice", ["--host-whitelist=127.0.0.1,127.0.0.1"]),
        ("state of nothing", ["--initial-cluster-state="]), ("state", ["--initial-cluster-state=old"]), ("token of nothing", ["--initial-cluster-token="]),
        ("gates", ["--feature-gates=AllBeta=true"]), ("gate of nothing", ["--feature-gates="]), ("gate without value", ["--feature-gates=AllBeta"]), ("gate unknown", ["--feature-gates=Foo=true"]),
        ("ignored flag", ["--snapshot=5"]), ("ignored flag alone", ["-v"]), ("max-snapshots", ["--max-snapshots=3"]), ("v2-deprecation", ["--v2-deprecation=write-only"]),
        ("v2-deprecation unknown", ["--v2-deprecation=x"]), ("v2-deprecation of nothing", ["--v2-deprecation="]), ("fallback", ["--discovery-fallback=exit"]), ("fallback proxy", ["--discovery-fallback=proxy"]),
        ("fallback unknown", ["--discovery-fallback=x"]), ("ticks 29 and 271", ["--heartbeat-interval=29", "--election-timeout=271"]), ("heartbeat too long", ["--heartbeat-interval=300"]),
        ("election of 50001", ["--election-timeout=50001"]), ("zero election", ["--election-timeout=0"]), ("zero heartbeat", ["--heartbeat-interval=0"]),
        ("hash time of zero", ["--compact-hash-check-time=0"]), ("negative hash time", ["--compact-hash-check-time=-1s"]), ("auth token of nothing", ["--auth-token="]),
        ("auth token x", ["--auth-token=x"]), ("cost of 3", ["--bcrypt-cost=3"]), ("raft timeout of 1s", ["--raft-read-timeout=1s"]), ("max-txn-ops of zero", ["--max-txn-ops=0"]),
        ("max-request-bytes of zero", ["--max-request-bytes=0"]), ("large max-request-bytes", ["--max-request-bytes=20000000"]), ("negative quota", ["--quota-backend-bytes=-1"]),
        ("tls version", ["--tls-min-version=TLS1.2"]), ("other tls version", ["--tls-min-version=TLS9"]), ("freelist", ["--backend-bbolt-freelist-type=x"]),
        ("progress of 1ms", ["--watch-progress-notify-interval=1ms"]), ("negative progress", ["--watch-progress-notify-interval=-1s"]), ("apply warning of zero", ["--warning-apply-duration=0"]),
        ("default output twice", ["--log-outputs=default,default"]), ("output by URL of one slash", ["--log-outputs=file:{D}/out"]),
        ("empty rotation", ["--log-rotation-config-json="]), ("broken rotation", ["--log-rotation-config-json={"]), ("rotation of nothing", ["--log-rotation-config-json={}"]),
        ("all alpha gates", ["--feature-gates=AllAlpha=true"]), ("gate of lease checkpoints", ["--feature-gates=LeaseCheckpoint=true"]),
        ("gates of lease checkpoints", ["--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true"]), ("new cluster by force", ["--force-new-cluster=true"]),
        ("oldest TLS of nothing", ["--tls-min-version="]), ("oldest TLS 1.1", ["--tls-min-version=TLS1.1"]), ("newest TLS 1.3", ["--tls-max-version=TLS1.3"]), ("newest TLS of no version", ["--tls-max-version=TLS9"]),
        ("newest TLS below oldest", ["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]), ("cipher suites of nothing", ["--cipher-suites="]),
        ("rate of traces", ["--distributed-tracing-sampling-rate=-1"]), ("address of traces", ["--distributed-tracing-address=x"]), ("service of traces", ["--distributed-tracing-service-name="]),
        ("dial timeout of discovery", ["--discovery-dial-timeout=1s"]), ("discovery over TLS", ["--discovery-insecure-transport=false"]), ("certificate of discovery", ["--discovery-cert=/none"]),
        ("discovery beside a cluster", ["--discovery-endpoints="]), ("token of no discovery", ["--discovery-token=x"]), ("catchup of zero", ["--snapshot-catchup-entries=0"]),
        ("negative check time", ["--corrupt-check-time=-1s"]), ("log in the data directory", ["--wal-dir={D}/data"]), ("log in the member's folder", ["--wal-dir={D}/data/member/"]),
        ("log in its usual place", ["--wal-dir={D}/data/member/wal"]),
        ("retention with negative", ["--auto-compaction-retention=-1h"]), ("rotation without file", ["--enable-log-rotation"]),
    ]:
        yield Case(f"flag {name}", args=flags() + more)
    for name, change in [
        ("cluster with a comma behind", dict(initial_cluster="m1=http://127.0.0.1:{P},")), ("cluster with commas", dict(initial_cluster=",,m1=http://127.0.0.1:{P}")),
        ("cluster of a name alone", dict(initial_cluster="m1")), ("cluster with a space", dict(initial_cluster="m1= http://127.0.0.1:{P}")), ("cluster with spaces before", dict(initial_cluster=" m1=http://127.0.0.1:{P}")),
        ("cluster twice", dict(initial_cluster="m1=http://127.0.0.1:{P},m1=http://127.0.0.1:{P}")), ("empty cluster", dict(initial_cluster="")), ("no cluster", dict(initial_cluster=None)),
        ("cluster of another name", dict(initial_cluster="m2=http://127.0.0.1:{P}")), ("cluster of localhost", dict(initial_cluster="m1=http://localhost:{P}")), ("name with a space", dict(name="m 1", initial_cluster=None)),
        ("cluster with an empty name", dict(initial_cluster="=http://127.0.0.1:{P}")), ("the default cluster spelled out", dict(initial_cluster="default=http://localhost:2380")),
        ("empty name", dict(name="", initial_cluster=None)), ("no name, own peer URL", dict(name=None, initial_cluster=None)), ("name default", dict(name="default", initial_cluster="default=http://127.0.0.1:{P}")),
        ("no advertised client URL", dict(advertise_client_urls=None)), ("empty advertised client URL", dict(advertise_client_urls="")), ("advertised without host", dict(advertise_client_urls="http://:1")),
        ("advertised peer without host", dict(initial_advertise_peer_urls="http://:1")), ("any host without peer URL", dict(listen_peer_urls="http://0.0.0.0:{P}", initial_advertise_peer_urls=None, initial_cluster=None)),
        ("any host of six without peer URL", dict(listen_peer_urls="http://[::]:{P}", initial_advertise_peer_urls=None, initial_cluster=None)),
        ("client URL with a path", dict(listen_client_urls="http://127.0.0.1:{C}/")), ("client URL without port", dict(listen_client_urls="http://127.0.0.1")), ("client URL of a name", dict(listen_client_urls="http://a.example:{C}")),
        ("client URL without scheme", dict(listen_client_urls="127.0.0.1:{C}")), ("client URL in capitals", dict(listen_client_urls="HTTP://127.0.0.1:{C}")), ("client URLs with spaces", dict(listen_client_urls=" http://127.0.0.1:{C} ")),
        ("client URL twice", dict(listen_client_urls="http://127.0.0.1:{C},http://127.0.0.1:{C}")), ("client URLs with a comma behind", dict(listen_client_urls="http://127.0.0.1:{C},")),
        ("client URL of port 70000", dict(listen_client_urls="http://127.0.0.1:70000")), ("no data-dir", dict(data_dir=None)),
    ]:
        yield Case(f"flag derived: {name}", args=flags(**change), quick=name.startswith(("cluster with a comma", "any host")))


def url_cases():
    """URLs of every flag that has them."""
    places = {"listen_client_urls": "{C}", "listen_peer_urls": "{P}", "listen_metrics_urls": "{M}", "advertise_client_urls": "{C}", "initial_advertise_peer_urls": "{P}"}
    for text in ["http://u:p@127.0.0.1:{C}", "http://127.0.0.1:{C}#f", "http://127.0.0.1:{C}?x=y", "http://[::ffff:127.0.0.1]:{C}", "http://127.0.0.1:0{C}", "http://127.0.0.1:+{C}",
                 "http://[127.0.0.1]:{C}", "http://%31%32%37.0.0.1:{C}", "http://127.0.0.1 :{C}"]:
        for flag, port in places.items():
            yield Case(f"URL {flag} {text}", args=flags(**{flag: text.replace("{C}", port)}))
    for flag in ["listen_client_urls", "listen_peer_urls", "listen_metrics_urls", "advertise_client_urls"]:
        yield Case(f"URL {flag} of port 65536", args=flags(**{flag: "http://127.0.0.1:65536"}))
    for flag in ["listen_peer_urls", "listen_metrics_urls", "advertise_client_urls"]:
        yield Case(f"URL {flag} without digits", args=flags(**{flag: "http://127.0.0.1:"}))
    for text in ["http://a@b@h:1", "http://h:1#a b", "http://h:1?", "http://\u00e9:1", "http://a|b:1", "http://[fe80::1%25eth0]:1", "http://[::1:1", "http://h:1/?x"]:
        yield Case(f"URL advertised {text}", args=flags(advertise_client_urls=text))
    for text in ["?a", "#a"]:
        yield Case(f"URL cluster {text}", args=flags(initial_cluster=f"m1=http://127.0.0.1:{{P}}{text}"))
    yield Case("URL cluster of IPv4 in IPv6", args=flags(initial_cluster="m1=http://[::ffff:127.0.0.1]:{P}"))


def variable_cases():
    """What stands in the environment."""
    for name, env in [
        ("used", {"ETCD_SNAPSHOT_COUNT": "5"}), ("empty", {"ETCD_SNAPSHOT_COUNT": ""}), ("bad", {"ETCD_SNAPSHOT_COUNT": "x"}), ("shadowed", {"ETCD_NAME": "m1"}), ("shadowed and empty", {"ETCD_NAME": ""}),
        ("shadowed and another bad", {"ETCD_NAME": "x", "ETCD_SNAPSHOT_COUNT": "x"}), ("unknown", {"ETCD_NO_SUCH": "5"}), ("in small letters", {"ETCD_snapshot_count": "5"}), ("with dashes", {"ETCD_SNAPSHOT-COUNT": "5"}),
        ("ETCD_DEBUG", {"ETCD_DEBUG": "no"}), ("ETCD_DISCOVERY", {"ETCD_DISCOVERY": "https://x"}), ("ETCD_PROXY", {"ETCD_PROXY": "readonly"}), ("ETCD_ENABLE_V2", {"ETCD_ENABLE_V2": "maybe"}),
        ("experimental", {"ETCD_EXPERIMENTAL_CORRUPT_CHECK_TIME": "x"}), ("experimental gate", {"ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK": "x"}), ("ETCD_VERSION", {"ETCD_VERSION": "9"}), ("ETCD_VERIFY", {"ETCD_VERIFY": "all"}),
        ("ignored", {"ETCD_FORCE": "x"}), ("boolean", {"ETCD_PRE_VOTE": "F"}), ("bad boolean", {"ETCD_PRE_VOTE": "yes"}), ("URL", {"ETCD_LISTEN_METRICS_URLS": "http://127.0.0.1:{M}"}), ("bad URL", {"ETCD_LISTEN_METRICS_URLS": "a"}),
        ("help", {"ETCD_HELP": "true"}), ("v2-deprecation", {"ETCD_V2_DEPRECATION": "x"}), ("level", {"ETCD_LOG_LEVEL": "WARN"}), ("of another case", {"etcd_name": "x"}), ("unsupported architecture", {"ETCD_UNSUPPORTED_ARCH": "arm"}),
    ]:
        yield Case(f"variable {name}", args=flags(), env=env, quick=name.startswith("ETCD_"))
    yield Case("variable bad level", args=flags(), env={"ETCD_LOG_LEVEL": "x"})
    yield Case("variable of a flag that only the server has", args=flags(), env={"ETCD_CORES": "x"})
    every = {f"ETCD_{key.upper().replace('-', '_')}": value for key, value in MEMBER.items()}
    yield Case("variables alone", env=every, quick=True)


def listener_cases():
    """Every listener against every other."""
    kinds = {"listen-client-urls": "advertise-client-urls", "listen-peer-urls": "initial-advertise-peer-urls", "listen-metrics-urls": None, "listen-client-http-urls": None}
    hosts = ["127.0.0.1", "localhost", "0.0.0.0", "[::]", "[::1]"]
    pairs = [("127.0.0.1", other) for other in hosts] + [("0.0.0.0", "0.0.0.0"), ("0.0.0.0", "[::]"), ("0.0.0.0", "[::1]"), ("[::1]", "[::]"), ("[::1]", "[::1]")]
    names = list(kinds)
    for at, one in enumerate(names):
        for other in names[at:]:
            for first, second in pairs:
                change = {one: f"http://{first}:{{C}}", other: f"http://{second}:{{C}}"}
                if one == other:
                    change[one] = f"http://{first}:{{C}},http://{second}:{{C}}"
                if one != "listen-client-urls":
                    change = {key: value.replace("{C}", "{P}" if one == "listen-peer-urls" else "{M}") for key, value in change.items()}
                chosen = dict(MEMBER)
                chosen.update(change)
                args = [f"--{key}={value}" for key, value in chosen.items()]
                plain = first == "127.0.0.1" and second in ("127.0.0.1", "localhost", "0.0.0.0")
                yield Case(f"listeners {one} {first}, {other} {second}", args=args, quick=plain and one != other)
    any_host = flags(listen_client_urls="http://0.0.0.0:{C}")
    yield Case("listener on any host", args=any_host, look=connects("127.0.0.1", "::1", "127.0.0.9"), quick=True)
    yield Case("listener on any host of six", args=flags(listen_client_urls="http://[::]:{C}"), look=connects("127.0.0.1", "::1"))
    yield Case("listener on one host", args=flags(), look=connects("127.0.0.1", "::1", "127.0.0.9"))
    yield Case("listener on one host of six", args=flags(listen_client_urls="http://[::1]:{C},http://127.0.0.1:{C}"), look=connects("127.0.0.1", "::1", "127.0.0.9"))
    yield Case("port of a second process", args=flags(), look=second_process, quick=True)
    yield Case("port of a second process, shared", args=flags() + ["--socket-reuse-port"], look=second_process, quick=True)
    yield Case("port of a second process, reused address", args=flags() + ["--socket-reuse-address"], look=second_process)
    for count in (64, 150):
        yield Case(f"{count} descriptors", args=flags(), before=descriptors(count), quick=True)
    yield Case("300 descriptors", args=flags(), before=descriptors(300))


def signal_cases():
    """What ends a server, and with which status."""
    for number in sorted(IGNORED | {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}):
        yield Case(f"signal {number.name}", args=flags(), signal=number, quick=number.name in ("SIGTERM", "SIGUSR1", "SIGHUP"))
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield Case("signal SIGHUP under nohup", args=flags(), signal=signal.SIGHUP, before=ignore)


def holding(*files, mode=0o700):
    """Makes a data directory with these empty files, or folders where a name ends with a slash."""
    def make(data):
        os.makedirs(data, mode=0o700)
        for name in files:
            path = os.path.join(data, name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            if not name.endswith("/"):
                open(path, "wb").close()
        os.chmod(data, mode)
    return make


def folder_cases():
    """What lies in the data directory."""
    for name, make in [
        ("empty", holding()), ("of another mode", holding(mode=0o755)), ("with a stray file", holding("notes.txt")),
        ("with a stray folder", holding("backup/old")), ("of a v2 proxy", holding("proxy/")), ("with an empty member", holding("member/")),
        ("with an empty log", holding("member/wal/")), ("with an empty snap", holding("member/snap/")),
        ("that is a file", lambda data: open(data, "wb").close()), ("whose member is a file", holding("member")),
        ("whose log is a file", holding("member/wal")), ("with a stray file in the log", holding("member/wal/notes.txt")),
        ("with an empty segment", holding("member/wal/0000000000000000-0000000000000000.wal")),
    ]:
        yield Case(f"folder {name}", args=flags(), folder=make, quick=name in ("empty", "that is a file"))
    yield Case("folder of the server's own", args=flags(), between="etcd", keys=("first", "between"), quick=True)
    yield Case("folder on which the other server was started", args=flags(), between="server", keys=("first",), quick=True)


def all_cases():
    cases = [*file_cases(), *flag_cases(), *url_cases(), *variable_cases(), *listener_cases(), *folder_cases(), *signal_cases()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    return cases


def refused(etcd, server):
    """The server ends where etcd serves."""
    return etcd == "serves" and server == "exit 1"


def other_status(etcd, server):
    """Both end, with different statuses."""
    return str(etcd).startswith("exit") and str(server).startswith("exit")


def anything(etcd, server):
    return True


# Where the other server may differ: the beginning of a case's name, the field, a test, and why.
EXCUSED = [
    ("file zero snapshot-count", "snapshot-count", anything, "the server prints the default that stands for zero"),
    ("file level of", "outcome", other_status, "etcd panics"),
    ("file other origins", "outcome", other_status, "etcd panics"),
    ("folder of a v2 proxy", "outcome", other_status, "etcd panics"),
    ("folder with an empty segment", "outcome", other_status, "etcd panics"),
    ("folder whose log is a file", "outcome", refused, "etcd deletes the file"),
    ("flag retention with negative", "outcome", refused, "automatic compaction is not built"),
    ("flag max-request-bytes of zero", "outcome", anything, "etcd cannot publish its own name, and waits for ever"),
    ("flag negative check time", "outcome", other_status, "etcd panics"),
]


def excused(name, field, etcd, server):
    """Whether a difference is known and right."""
    return any(name.startswith(start) and field == at and test(etcd, server) for start, at, test, _ in EXCUSED)
