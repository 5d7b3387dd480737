import { FsError } from '../../shared/errno.ts';

/** A request was given up without an answer: it may have been done, and its message may be on its way yet, with its very bytes. */
export class UnansweredError extends FsError {}
