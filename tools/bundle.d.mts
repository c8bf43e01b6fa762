/** Whether a file of dist/tool is a bundle that is made no more. */
export function isStale(name: string, wanted: ReadonlySet<string>): boolean;
