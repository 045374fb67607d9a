//! Which recovery points to keep. Pure: points, a policy and the time in,
//! decisions out.
