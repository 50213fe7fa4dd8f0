// A picture's text, which stands in the metadata of its output, becomes its alt text; the handle of a slider is called as its label. Written by hand:
// JupyterLab asks a container for its plugin and lends it the modules that it shares.
(() => {
  let shared, named = 0;

  const name = handle => {
    const label = handle.closest('.widget-slider')?.querySelector('label');
    if (!label) return;
    label.id ||= `stepwise-label-${++named}`;
    handle.setAttribute('aria-labelledby', label.id); // its text comes later
  };
  const watch = () => new MutationObserver(changes => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) {
        if (node.nodeType === Node.ELEMENT_NODE) [node, ...node.querySelectorAll('.noUi-handle')].filter(e => e.matches('.noUi-handle')).forEach(name);
      }
    }
  }).observe(document.body, { childList: true, subtree: true });

  const plugin = ({ IRenderMimeRegistry, RenderedImage }) => {
    class Picture extends RenderedImage {
      async render(model) {
        await super.render(model);
        this.node.querySelector('img').alt = model.metadata[this.mimeType]?.alt ?? 'Figure';
      }
    }
    return {
      id: 'stepwise:texts',
      description: 'Alt texts on figures and names on sliders.',
      autoStart: true,
      requires: [IRenderMimeRegistry],
      activate: (app, rendermime) => {
        rendermime.addFactory({ safe: true, mimeTypes: ['image/png'], defaultRank: 90, createRenderer: options => new Picture(options) });
        watch();
      },
    };
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.stepwise = {
    init: scope => { shared = scope; },
    get: async () => {
      const rendermime = (await Object.values(shared['@jupyterlab/rendermime'])[0].get())();
      return () => ({ __esModule: true, default: plugin(rendermime) });
    },
  };
})();
