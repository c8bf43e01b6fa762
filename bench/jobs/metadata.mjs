// What reads metadata only: map, check, compare of an image of 64 GiB with 200,000 clusters.
import { qcow2Scattered, qcow2Two, rawTwo } from './images.mjs';

const scattered = [qcow2Scattered];

export const metadataJobs = [
  { name: 'map, 64 GiB', needs: scattered, args: () => ['map', 'scattered.qcow2'] },
  {
    name: 'map --output=json, 64 GiB',
    needs: scattered,
    args: () => ['map', '--output=json', 'scattered.qcow2'],
  },
  { name: 'check, 64 GiB', needs: scattered, args: () => ['check', 'scattered.qcow2'] },
  { name: 'info, 64 GiB', needs: scattered, args: () => ['info', 'scattered.qcow2'] },
  {
    name: 'measure, 64 GiB',
    needs: scattered,
    args: () => ['measure', '-O', 'qcow2', 'scattered.qcow2'],
  },
  {
    name: 'compare, 2 GiB',
    needs: [rawTwo, qcow2Two],
    args: () => ['compare', '-f', 'raw', '-F', 'qcow2', 'two.raw', 'two.qcow2'],
  },
];
