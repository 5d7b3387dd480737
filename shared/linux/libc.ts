/**
 * Every libc function that weft calls through koffi, by the kind of thing it is about. All calls are synchronous unless the name
 * ends in `Async`; a synchronous call costs 0.2-0.6 us plus the system call.
 */
export { readU64 } from './call.ts';
export * from './descriptors.ts';
export * from './file-handles.ts';
export * from './file-locks.ts';
export * from './files.ts';
export * from './inotify.ts';
export * from './kernel-leases.ts';
export * from './listening.ts';
export * from './names.ts';
export * from './process.ts';
export * from './sockets.ts';
export * from './stat.ts';
export * from './unmounting.ts';
export * from './xattrs.ts';
