// placeholder
export class ReaderBar { constructor(doc, api) { this.element = null; } }
