/** A JSON number written with a fraction or an exponent, kept apart from the integers. */
export class JsonDouble {
  constructor(readonly value: number) {}
}
