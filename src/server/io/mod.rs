//! Sockets, clocks and tasks: the door to the operating system, and the one folder that knows glommio.
//!
//! ```text
//!   socket   listening sockets, options of accepted ones
//!   tcp      an accepted connection, sending from several places at once
//!   dial     connections that this process begins
//!   names    names of hosts and their addresses
//!   accept   accept loop: bounded connections, backs off when descriptors run out
//!   idle     clients that have not asked for anything yet, and may be sent away when the process is full
//!   wire     one connection's byte stream: bounded reads, replayed first bytes, a close that loses nothing
//!   stop     drain, then close, the connections of a core
//!   executor one thread that runs tasks
//!   clock    the monotonic clock as stdx::time::Instant
//!   task     spawning, sleeping, and making room for other tasks
//!   threads  threads for work that would hold an executor up
//!   watchdog finds turns of tasks that last too long
//!   turns    whose turn it is among the connections of a core
//!   wal_dir, wal_file, log_map, page_file, file_source, ofd_lock the files of a member
//!   memory_limit  the memory that control groups leave the process
//!   wal_prepare  the thread that makes the next log segment, and waits for room on a full disk
//!   dir      directories that outlive a power cut
//!   exchange two names that change places in one step
//!   fault    says why the process ends when a mapped page cannot be read
//!   rings    how the rings of io_uring are made
//!   process  what a process settles with the kernel before its first executor: signals, descriptors
//!   probe    whether io_uring is allowed
//! ```
//!
//! What glommio 0.9 needs to be told (all measured):
//! - a socket write costs a system call, so a connection collects what it has to say and sends once per wake-up;
//! - a task's waker panics beyond 32 766 clones: no task waits on so many things at once (connections are no tasks of
//!   glommio's, see [`turns`]; log writes are a task of their own);
//! - the first sleep of an executor takes 11 ms unless the process registered for membarrier before its first
//!   thread: [`process::early_init`].
//!
//! What serves connections lives on one core and is neither `Send` nor shared, except [`accept::Admission`], one atomic
//! count of connections for the whole process, and the queues of [`turns`], which a waker must be able to reach. The
//! store file is read by all cores and written by one thread; the directory of the log is shared by the log's writer
//! and the thread that prepares segments.

pub mod accept;
pub mod clock;
pub mod dial;
pub mod dir;
pub mod exchange;
pub mod executor;
pub mod fault;
pub mod file_source;
pub mod idle;
pub mod log_map;
mod memory_limit;
pub mod names;
pub mod ofd_lock;
pub mod page_file;
pub mod probe;
pub mod process;
mod rings;
pub mod socket;
pub mod stop;
pub mod task;
pub mod tcp;
pub mod threads;
pub mod turns;
pub mod wal_dir;
pub mod wal_file;
pub mod wal_prepare;
pub mod watchdog;
pub mod wire;
