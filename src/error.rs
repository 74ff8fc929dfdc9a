//! What a client can be told to have done wrong, or to wait for: etcd's gRPC error table, code and text exact.
//!
//! Clients match on both, so a word here is a promise. The quirks are etcd's own: two errors leave its server with
//! code `Unknown` because its mapping table holds their client-side value, and errors that the table does not know
//! (locks, elections, a demoted lessor) keep their plain text and are `Unknown` too.
#![forbid(unsafe_code)]

/// How a member comes back whose data are damaged or gone: the end of messages about that.
pub const RECOVERY: &str = "if this member is alone, put back a copy of the data directory; in a cluster, have the \
    others rebuild it: stop it, run kevel rebuild --data-dir DIR --endpoints URLS (client URLs of other members), and \
    start it again";

/// The codes of gRPC, by their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// An error as a client sees it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Error { $($(#[$doc])* $name,)* }

        impl Error {
            /// Every error there is.
            pub const ALL: &[Error] = &[$(Error::$name,)*];

            /// The gRPC status code.
            pub const fn code(self) -> Code {
                match self { $(Error::$name => Code::$code,)* }
            }

            /// The gRPC status message.
            pub const fn message(self) -> &'static str {
                match self { $(Error::$name => $text,)* }
            }
        }
    };
}

errors! {
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    InvalidAuthMgmt = InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";

    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    MemberNotFound = NotFound, "etcdserver: member not found";

    PermissionDenied = PermissionDenied, "etcdserver: permission denied";

    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";

    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady = FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";
    RootUserNotExist = FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist = FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExist = FailedPrecondition, "etcdserver: user name already exists";
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExist = FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";

    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";

    NoLeader = Unavailable, "etcdserver: no leader";
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    Stopped = Unavailable, "etcdserver: server stopped";
    Timeout = Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail = Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost = Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex = Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";

    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    WatchCanceled = Canceled, "etcdserver: watch canceled";
    RequestCanceled = Canceled, "etcdserver: request canceled";
    /// The client gave up; gRPC's own text.
    ContextCanceled = Canceled, "context canceled";
    /// The client's deadline passed; gRPC's own text.
    ContextDeadlineExceeded = DeadlineExceeded, "context deadline exceeded";

    /// Should be `FailedPrecondition`; leaves etcd as `Unknown`.
    MemberNotEnoughStarted = Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    /// Should be `ResourceExhausted`; leaves etcd as `Unknown`.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    NotPrimaryLessor = Unknown, "not a primary lessor";
    LeaderTransferTimeout = Unknown,
        "etcdserver: request timed out, leader transfer took too long";
    ElectionNotLeader = Unknown, "election: not leader";
    ElectionNoLeader = Unknown, "election: no leader";
    LeaderKeyMissing = Unknown, "\"leader\" field must be provided";
    /// etcd ends its process on such a request; nothing to be compatible with.
    UnknownAlarmAction = InvalidArgument, "etcdserver: unknown alarm action";
    RangeStreamSort = Unimplemented, "RangeStream does not support custom sort orders";
    RangeStreamFilter = Unimplemented, "RangeStream does not support revision filters";
    /// A kind of request whose meaning is not built yet.
    NotBuilt = Unimplemented, "this request is not supported by this server yet";
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_errors_look_alike_to_a_client() {
        let mut seen = std::collections::BTreeSet::new();
        for &error in Error::ALL {
            assert!(seen.insert((error.code(), error.message())), "{error:?} is told twice");
        }
    }
}
