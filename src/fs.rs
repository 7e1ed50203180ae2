//! Access to files below the watched directories: paths, file versions, locks, and the trace ids
//! that exports carry.

pub mod blocking;
pub mod carried;
pub mod directory;
pub mod file;
pub mod lock;
pub mod members;
pub mod root;
pub mod stamp;
pub mod task_state;
pub mod temp;
