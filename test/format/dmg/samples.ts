// One text compressed by the tools named: Debian has no LZFSE, and CI may lack the others.

/** What is compressed: `bytes` bytes of it. */
export function sampleText(bytes: number): Uint8Array {
  let text = '';
  for (let i = 0; text.length < bytes; i++) {
    text += `line ${i % 37} of ${i % 11}${'x'.repeat(i % 90)}\n`;
  }
  return new TextEncoder().encode(text.slice(0, bytes));
}

/** 8 KiB, by bzip2 -9. */
export const bzip2Sample =
  'QlpoOTFBWSZTWUi8cr8AA0n/gH/////////////+AAMlgEBAAmOYnEwOAAAAAGgAA9EeoZhNRp6QDQAAqbNE3qqU' +
  'NHqDEGgNAANMgMgANADIAINqVQAABoaAAADJiAAAAAAESmlGqaZAaDTRoA0NBgmEaaGgAADTQ9T8yZs2URDLrRk1' +
  '8x6kPExGrg5yrSXTrPvB7U8OfvWAn4tIUhDuoNbF4JG2HPybIuTKGcZRgAiAiOSCWCHNoV0qC06lCiWEYWs41hri' +
  'OJixLuy9o9o09w9ia+8i5OBTl4qlObkQ6rHOmlqSx9DZFgG6mCqHtvbfm2/15/Drb2/6OeCnBwJBYhBYCEAIikFi' +
  'AQWJBYkFiQWJBYkFlrXtllrbfZ93XXTXtW1POnpWoIpYRJJEvhIUoMSFRglSQQYmpxNQhUqmMSTUKlSqSpxNQqVT' +
  'WB4mqhUqmsDxNVCpVNYHiaqFSqakfFjvhivhfDHwseVmKv0hKKtl2qqlVVVaqkkkkkkkkkkkkkuWuXvUtVVUqqpU' +
  'C5eir1ZQAEAmd2eWlEiQoACCGdnaWkmUhCgAId3lpCUhCFAA7vLSmmQEIUADO8tCgSShKFDO4wDQklCUO7jCJa1r' +
  'WlrQWgA/yKhkRUMiKh990FQyIqGCKhgKcOZUAUMyZcFEONisuWWWWhGhGdZ1nTtbNfM2ZhhhhhhizDF2HGGGGGB7' +
  'sMXHE44hCEK7jYuO44wwwww17FxgccTjjDDXsXuAABYAAAsf8XckU4UJBIvHK/A=';

/** 8 KiB, by xz. */
export const xzSample =
  '/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4B//AstdADYaSh8IoCYDTQcngUbiKEKNhIkvDsaQlg/ielPGJNTi0ZYd' +
  'trYKl+rbVvwuL0PSaDhkxVQ6AtRrW8QWhHRTnw2u/f9DQS1d7ElLfrsNVhBENKKIf8Ke7G47GTUQBsXtcM+agm9C' +
  'XPSq9zB4Kx0gqv/YWiFDonW/Kl659YarMrS17KZU0M8BsH80Yd+ZaLIFAFzHELYmJaqAvn0x9h5xvxVBOkuJcEpL' +
  'v0NYIRQB+m4A3B+fD+hoV+V7e5mA5Qdmdg2cTJazUDaR8xnmaLrj+U94EclpYqT0vhjksda4JSkofOS8kQwlXf8J' +
  'im53qJPmdlf0d9Cwn681RqsLPvBxBiP+kACg4OKOOQitVmcfyhAjiW78vLs7/JmJRP2u3jgt45rMGNxjGGFueS2M' +
  'zjFzWkJgH3D5ezGJHh9b1FrIyuQ7kWQA+0izTLZLvEhOX+7XSK64F8gUsZdn+cj+Rp+7KWW53GCXuQE4rVomJ64G' +
  'yLXQy3JiO5WhMYd0OVMqZ9XhccUG7o0Dbm1IYAjibYOUU5r5GNQrutBrk5hoUldKfILrtfHGXWOLCzs2Sj5/wfCh' +
  'u8xWsdD+XH8tD8dVbl1b+Cb4VfB86uluEq2lQv2bMLQHReHDyZm3rz/gOrElHWJ2ZrhxRlI1P56rRKS0WLqFxYax' +
  '8nIuIy1uM3zo/V6RF6nAGa7WeMjXgxjLrKFOxAapRSlQGKo6afywLGbee1Vg43iZVvl6DgIV64+ypKhWph6JZN+v' +
  'SKC6MLMbMIXV0e38M17Bz+moSEORNsCrSG/Y9OMQW5q/9zBpOZEGbJ2h6PP+E9Zg8S4v9omK1J7Zt91L8mN5dbmg' +
  'ym1x8uHN+dctP2pR4t9TRAh5O8gWsefAad4aEkFAmP1aRzJzzW6hgcSZqHXpRZFKpKi04WbLP8jWa/2E+kdQojtQ' +
  'Sv6LQ3hSx/FikqK2siSKnYlU58AAALngFzRM/Ox9AAHnBYBAAABsSzedscRn+wIAAAAABFla';

/** 8 KiB, by the encoder of LZFSE's reference implementation (a block bvx2). */
export const lzfseSample =
  'YnZ4MgAgAAA8AOABABwCEPxu2zCxowMApwAAAD8QEAMvQhUAQABAwLN9E71QzUFZTwEAJGsdHBxcXF5MzFj75ODi' +
  '/vLmZM40AQAAAAAAgEsAAC4BAAAAAPgNAAAAgN/ge/gevodn4Vn4DX6DV+AVAAAAAAAAAAAAAAAuL+ESLrm8BAD4' +
  'ZAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA4N2f1SL5Ri4ZYSMDnSFjLF74j4mtYz1NT9bRsgAA' +
  'AAAAAAAAAADAJxmOcg2mp3L/k1uA/YfAvTmcaQLnb++4LrmbH6ZpXdL2v48KN5YGWbW6JOv8j0Z1yafxMxrVJUXf' +
  'KygZkzpbAEgxJl+usJOOFkmmYJOMRmlXcWPzOKxnj+6kpRg4xo+qg+jhDU+8iCy2/aA7hSyK7RB2Alm8usF0uhz6' +
  '9pLDsF3+1rKEUTuFbSXCQbvGltK/2BraUjTOme22kww3RqIlYA72IC29hawufg1APSobXrtQjv9GyVtUI71BckSK' +
  'Md0YuZZa9DZEFqcUp42Q5zQxEgAyTo9uU76izKH1/q36ZCatf1Zls5LOf1UTjCTXV1LTGqH1k9Rwibj6SPpdJav+' +
  '+ACQiOG0mOEjv7dGzjnafy2aTCOGrMz5yBs/k9zQAPFRzO+I629JjkY4DIfkeYA34U5U2dxOt9ijjU/STYawm0Mu' +
  'Yji/Oe9+Yc2eOlAwtY/gGZWyT4EjcYcHsr8IKz+u9/gXMe7vvZqm7ravhtx0ambW/GsjYKdmonJVn0HQBTK2pjlw' +
  'g4jdb4qPCMgCfbWe+chHClQ6NfMRjhNIc1rmRjJKoKHnnh9bFiOO8FmRtzwR4pg9G/KWIj6c0bMgb9mhw2lfv04T' +
  'u4ZzvnpdczqGE752XdO5hwM8xSa8gKjXrWsSl3CcV61r/A/hILdK19Tv4Kh2M2+qzwCBdmHe/F4Bsuxe3qQeAWLs' +
  'Wt6UvAEk2K286TsBhN9S3JxdAHq2bdORqwDI01mb0x6gKFEdkkNyPqAriJuH6zCuPib55uCRPEbGvSEjdUyarYEi' +
  'cUxuncFD2piEGoNC0pgs+qKLqpng5WwPoGCM4696g/MYckWaxGix4okvqWgxYQkqiWhR3xHJ08hi3BC+k8hi2Q+z' +
  'k5DFrB1QJ5DFphvWb3VEIwS7s6d4BId1Xw/x45QuBMEUEtTTHtkZzdFHntgZyM91PLAzhqsvPh2fBRKT7Q65kTMl' +
  'tTtoGzdKane8Jo6XoBhOLsAtmhgiDoAskhihSbQY/eeg9nJzQiOcrsnwfBDkGBHv6a56orUje7Y6jSWEerI69w3q' +
  'ba464QWiNlWd5aLKVqqmtiiwg+p8FrU3HoWHBRvozzkxlZN7kcRVKeZijLXEdDqOxb6V0OBW5CsJsVOQeyRSy8By' +
  'TxKIjBc3Z7h5HPhT2PmGvxJOMri3bC4C/zh1wheUcjBihwRzyLUfBPp8u4T02fYIgT7LDiHQJ9knBD2KXUJ65HqE' +
  '6DHqENIBYnZ4JA==';

/** 1 KiB, by the same (a block bvxn). */
export const lzvnSample =
  'YnZ4bgAEAAAuAQAA7GxpbmUgMCBvZiAwChAMTjGYDTF4TjKYDjJ48U4zmA8zePJONJgQNHjzTjWYETV49E42mBI2' +
  'ePVON143IBNOOGY4IBROOW45IBVQpjHIATEwePUgGBCyOBfxKBgQvZgBMXj1IBkQyFgTMiABIBoQ01gTMygBIBsQ' +
  '3lgTNDABIBwQ6V41OAEgHRD0ZjY4ASAeEP9uNzgBIB8RCm448TgBGCBRFDI5KjgB8SAhGc85HvI4ASAjESg4Ivwo' +
  'IxEybjH1OAEgJBE8bjL2OAEgJRFGbjP3OAEgJhFQbjT4OAEgJxFabjX5OAEgKBFkbjb6OAEgKRFubjf7OAEYKlF4' +
  'M244/DgBICsRgjmj+zgB8SAsGrM5jP04ASAuEZY4LfAHKC4RoDnE9uF4BgAAAAAAAABidngk';
