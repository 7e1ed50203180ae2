//! Access to files below the watched directories: paths, file versions, locks, and the trace ids
//! that exports carry.

pub(crate) mod blocking;
pub(crate) mod carried;
pub(crate) mod cgroup;
pub(crate) mod directory;
pub(crate) mod file;
pub(crate) mod lock;
pub(crate) mod members;
pub(crate) mod named;
pub(crate) mod root;
pub(crate) mod stamp;
pub(crate) mod task_state;
pub(crate) mod temp;
