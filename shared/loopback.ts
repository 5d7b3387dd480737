/** A host of an address or URL (IPv6 with brackets or without) that no other machine reaches. */
export function isLoopback(host: string): boolean {
  return ['localhost', '::1', '[::1]'].includes(host) || /^127\.\d+\.\d+\.\d+$/.test(host);
}
