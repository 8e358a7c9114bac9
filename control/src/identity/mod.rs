//! Who is who: a mesh's certificate authority, workload certificates, tokens and the keys that sign them.
//! Nothing here stores anything: callers load and keep the material.
